"""Writes the parquet files of this folder; needs pyarrow (26.0.1 was used).

    python3 make.py
"""

import pyarrow as pa
import pyarrow.parquet as pq

# Rows as WikiText has them: headings, paragraphs with their line end, and empty rows.
ROWS = ["", " = Robert = \n", "", " He is a " + "long " * 60 + "one . \n", "\ufeffÄ 中 😀 \n", ""] * 5


def write(name, columns, **options):
    pq.write_table(pa.table(columns), name, **options)


for codec in ["none", "snappy", "gzip", "zstd"]:
    other = pa.array([{"id": i} for i in range(30)])
    write(f"{codec}.parquet", {"other": other, "text": ROWS}, compression=codec,
          use_dictionary=False, row_group_size=7)
write("dictionary.parquet", {"text": pa.array(ROWS, pa.large_string()), "n": [None] * 30},
      compression="snappy", use_dictionary=True, row_group_size=20)
write("version2.parquet", {"text": ROWS}, data_page_version="2.0", compression="zstd",
      column_encoding={"text": "DELTA_BYTE_ARRAY"}, use_dictionary=False, data_page_size=500)
write("sentences.parquet", {"sentence": ["no it was n't", "<unk> said", "N million"] * 3})
write("null.parquet", {"text": ["a", "b", None, "d"]}, row_group_size=2)
write("number.parquet", {"text": pa.array([1, 2], pa.int64()), "list": [["a"], ["b"]]})
write("bytes.parquet", {"text": pa.array([b"ok \xc3\xa4", b"\xff\xfe", b"c"], pa.binary())})
write("empty.parquet", {"text": pa.array([], pa.string())})
# Questions in the form of ARC, with a list of texts and one of labels in a column.
write("questions.parquet", {
    "id": ["a", "b", "c"],
    "question": ["What is wet?", "Who sings?", "Which is \u00e4?"],
    "choices": [{"text": ["stone", "water", "sand", "ash"], "label": ["A", "B", "C", "D"]},
                {"text": ["a bird", "a box", "a wall"], "label": ["1", "2", "3"]},
                {"text": ["\u00e4", "a", "o", "u"], "label": ["A", "B", "C", "D"]}],
    "answerKey": ["B", "1", "A"],
}, row_group_size=2)
# In the form of PIQA, whose labels are integers of 64 bits.
write("labels.parquet", {
    "goal": ["open a door", "close it"],
    "sol1": ["push", "pull"],
    "sol2": ["sing", "wait"],
    "label": pa.array([0, 1], pa.int64()),
})
