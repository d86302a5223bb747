"""report.html: a run told on one self-contained page, verdict first, and runs side by side.

`writing` has what writes pages. Nothing is imported here: the command line takes its numbers and
words from this package, and most verbs need no page.
"""
