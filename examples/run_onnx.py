"""Run a file of `ovseg export MODEL --resize --labels --classes WORDS` with onnxruntime, numpy and pillow alone.

python run_onnx.py MODEL.onnx PHOTO LABELS.png             by the words in the file
python run_onnx.py MODEL.onnx PHOTO LABELS.png WORDS.npz   by others: text_embeddings (T, D), query_to_class (T,), names
"""

import base64
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

NO_CLASS = 255


def words_of(card: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return what the file holds: rows of texts (T, D), the class of each (-1: background), names of the classes."""
    words = card["words"]
    if words is None:
        raise SystemExit("error: the file holds no words; export with --classes, or give WORDS.npz")
    rows = np.frombuffer(base64.b64decode(words["embeddings"]), "<f4").reshape(words["shape"])
    return rows, np.array(words["query_to_class"]), [entry["name"] for entry in words["vocabulary"]]


def main(model: str, photo: str, output: str, words: str = "") -> None:
    """Label every pixel of a photograph, say what it shows, and write the labels (255: no class)."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["ovseg"])
    if not (card["photo"] and card["labels"]):
        raise SystemExit("error: the file takes no photographs or gives no labels; export with --resize --labels")
    if words:
        given = np.load(words)
        rows, classes, names = given["text_embeddings"], given["query_to_class"], given["names"].tolist()
    else:
        rows, classes, names = words_of(card)
    image = np.array(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
    inputs = {"image": image, "text_embeddings": rows.astype(np.float32), "query_to_class": classes.astype(np.int64)}
    if card["trained_names"] is not None:  # FC-CLIP asks which classes its head has learnt
        known = [name in card["trained_names"] for name in names]
        inputs["trained"] = np.array([index >= 0 and known[index] for index in inputs["query_to_class"]])
    labels, scores = session.run(["labels", "scores"], inputs)
    for index, name in enumerate(names):
        found = labels == index
        if found.any():
            print(f"{name}: {100 * found.mean():.1f} % of the image, mean score {scores[found].mean():.2f}")
    if len(names) > NO_CLASS:
        raise SystemExit(f"error: {len(names)} classes do not fit into 8 bits; write labels as 16 bits")
    Image.fromarray(np.where(labels < 0, NO_CLASS, labels).astype(np.uint8)).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:5])
