"""Speed and memory as ratios: two ways to do the same work, in turns, in one process."""
