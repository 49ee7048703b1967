"""Writes zero_shot.json: what transformers makes of 50 requests for log-likelihoods, on the example
models: token ids, where the continuation begins, and its log-likelihood.

    python3 zero_shot.py > zero_shot.json

Needs torch and transformers (2.13.0 and 5.24.0 were used). Each request runs alone, in f32.
"""

import json
import pathlib

import torch
import transformers

PROJECT = pathlib.Path(__file__).parent.parent.parent
MODELS = ["tiny-llama", "tiny-opt"]
TEXT = (PROJECT / "examples/text/evaluation.txt").read_text(encoding="utf-8")

# Questions of our own: a context and its choices.
QUESTIONS = [
    ("Question: How can you keep bread fresh for longer?\nAnswer:",
     [" Wrap it in a dry cloth and keep it in a box.", " Put it into a bowl of warm water."]),
    ("The lamp in the hall is lit at dusk and put out at dawn, as the rules of the house ask for.\n"
     "Question: is the lamp in the hall lit at noon?\nAnswer:", [" no", " yes"]),
    ("A stone that is thrown into a pond makes", [" rings on the water", " the water boil",
                                                  " the pond deeper", " a fish of stone"]),
    ("Question: Which of these gives light by night?\nAnswer:",
     [" the moon", " a closed book", " a cold stove", " the shade of a tree"]),
    ("Cooking: A man cuts an onion on a board. He",
     [" wipes his eyes and goes on cutting.", " lifts the roof off the house.",
      " sings \u201cauld lang syne\u201d to the onion \u2013 twice.", " is cut."]),
    # White space at the end of a context counts to the continuation.
    ("Question: What does a baker sell? \nAnswer: ", [" bread", " rain"]),
    ("Caf\u00e9, na\u00efve, \u00c6sop, 20 \u00b0C, \u4e2d\u6587: these are", [" words", " 12 \u20ac", " \U0001f600"]),
]

# One continuation after several contexts.
SENTENCES = [
    (["The cup did not fit into the box because the cup", "The cup did not fit into the box because the box"],
     " was too large."),
    (["Mary lent her umbrella to Jane since Mary", "Mary lent her umbrella to Jane since Jane"],
     " had left her own at home."),
]


def word_start(at):
    return TEXT.index(" ", at)


def passages():
    """Parts of a book, of several lengths, with what follows and what does not."""
    for i, length in enumerate([30, 90, 250, 600, 1000]):
        start = word_start(2000 + 9000 * i) + 1
        end = word_start(start + length)
        places = [end] + [word_start(1000 + 7000 * (i + j)) for j in range(3)]
        yield TEXT[start:end], [TEXT[at:word_start(at + 20 + 25 * i)] for at in places]


def requests():
    for context, choices in QUESTIONS + list(passages()):
        yield [(context, choice) for choice in choices]
    for contexts, continuation in SENTENCES:
        yield [(context, continuation) for context in contexts]
    yield [(TEXT[word_start(50000):word_start(50400)], TEXT[word_start(at):word_start(at + 60)])
           for at in [50400, 10000, 20000, 30000, 40000]]


def encode(tokenizer, context, continuation):
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    ids = tokenizer.encode(context + continuation, add_special_tokens=False)
    return ids, len(tokenizer.encode(context, add_special_tokens=False))


def log_likelihood(model, ids, start):
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    log_probabilities = torch.log_softmax(logits, -1)
    return sum(log_probabilities[i - 1, ids[i]].item() for i in range(start, len(ids)))


groups = list(requests())
assert sum(map(len, groups)) == 50, sum(map(len, groups))
results = {}
for name in MODELS:
    folder = PROJECT / "examples/models" / name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    results[name] = []
    for group in groups:
        encoded = [encode(tokenizer, *request) for request in group]
        results[name].append([
            {"ids": ids, "start": start, "logLikelihood": round(log_likelihood(model, ids, start), 6)}
            for ids, start in encoded
        ])
print(json.dumps({
    "made_by": f"zero_shot.py with transformers {transformers.__version__}, torch {torch.__version__}",
    "groups": [[{"context": context, "continuation": continuation}
                for context, continuation in group] for group in groups],
    "models": results,
}, separators=(",", ":"), ensure_ascii=False).replace('{"', '\n{"'))
