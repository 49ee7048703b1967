"""Writes python_random.json: what CPython's random module draws, and the crops of documents that
the data loader for C4 of GPTQ and of the released BiLLM program draws with it.

    python3 python_random.py > python_random.json
"""

import json
import platform
import random

SEEDS = [0, 1, -1, 42, 624, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 123456789012345, 2**53 - 1]
RANGES = [(0, 0), (0, 1), (1, 6), (-5, 5), (0, 255), (0, 256), (0, 356316), (0, 2**31 - 1),
          (0, 2**31), (0, 2**32 - 1), (0, 2**32), (7, 10**15), (0, 2**53 - 2)]


def numbers(seed):
    random.seed(seed)
    bits = [random.getrandbits(k) for k in range(1, 54)]
    random.seed(seed)
    integers = [random.randint(*RANGES[i % len(RANGES)]) for i in range(78)]
    random.seed(seed)
    for _ in range(2000):  # the generator renews its 624 words some times
        late = random.getrandbits(32)
    return {"seed": seed, "bits": bits, "integers": integers, "word2000": late}


def document_tokens(i):
    """The lengths of the documents: most are short, one in 40 is long."""
    return 50 + i % 61 if i * 7919 % 40 == 3 else i * 31 % 47


def crops(documents, samples, length, seed):
    random.seed(seed)
    drawn = []
    for _ in range(samples):
        while True:
            i = random.randint(0, documents - 1)
            if document_tokens(i) > length:
                break
        j = random.randint(0, document_tokens(i) - length - 1)
        drawn.append([i, j])
    return {"documents": documents, "length": length, "seed": seed, "crops": drawn}


print(json.dumps({
    "made_by": "python_random.py with Python " + platform.python_version(),
    "ranges": RANGES,
    "numbers": [numbers(seed) for seed in SEEDS],
    "crops": [crops(documents, 128, length, seed)
              for documents, length in [(41, 45), (256, 64), (5000, 64), (40000, 100)]
              for seed in [0, 1, 2**40 + 3]],
}, separators=(",", ":")).replace('{"', '\n{"'))
