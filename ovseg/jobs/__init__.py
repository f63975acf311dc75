"""Jobs: work on many items, shared out, logged item by item and resumed; evaluation and labelling are two of them."""
