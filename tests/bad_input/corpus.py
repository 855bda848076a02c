"""The whole corpus. As a script it writes every item into a folder: ``python tests/bad_input/corpus.py FOLDER``."""

import sys
from pathlib import Path

from bad_input.corpus_archives import ARCHIVES
from bad_input.corpus_arrays import ARRAYS
from bad_input.corpus_images import IMAGES
from bad_input.corpus_models import MODELS
from bad_input.corpus_texts import TEXTS

CORPUS = IMAGES + MODELS + TEXTS + ARRAYS + ARCHIVES

if __name__ == "__main__":
    for item in CORPUS:
        path = item.write(Path(sys.argv[1]) / item.kind.replace(" ", "_"))
        stated = f"{item.error.__name__}: {item.result}" if item.error else item.result
        print(f"{path}\t{stated}")
