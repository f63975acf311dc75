"""Models of transformers as towers; the extra ``hf`` installs what they run with."""
