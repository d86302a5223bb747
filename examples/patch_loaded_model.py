"""Find bias neurons in a model that is already loaded, try the patch, keep it.

    python examples/patch_loaded_model.py [MODEL]

The questions are the small hand-written task of the package, so that no benchmark is needed; take
"bbq-age" or a file of your own instead. Too few questions to conclude anything from.
"""

import sys
from importlib.resources import as_file, files
from tempfile import TemporaryDirectory

import excise

# Stands for your own code: any PreTrainedModel with a language-model head, and its tokenizer.
loaded = excise.load(sys.argv[1] if len(sys.argv) > 1 else None)
model, tokenizer = loaded.model, loaded.tokenizer

with as_file(files("excise.tasks") / "examples" / "workplace.jsonl") as questions:
    config = excise.resolve(
        {"tasks": [str(questions)], "preset": "quick", "limit": 12, "test_instructions": 1}
    )
    result = excise.run(config, model=model, tokenizer=tokenizer)

for estimate in result.estimates():
    print(f"{estimate.metric:32} {estimate.original} -> {estimate.patched}")

prompt = tokenizer("Who forgot the keys?", return_tensors="pt").input_ids.to(model.device)
with result.patch.applied(model):  # inside the block only
    answer = model.generate(prompt, max_new_tokens=8, do_sample=False)
print(f"{len(result.patch)} neurons excised:", tokenizer.decode(answer[0]))

with TemporaryDirectory() as folder:
    result.patch.save(folder)
    assert excise.Patch.load(folder) == result.patch
