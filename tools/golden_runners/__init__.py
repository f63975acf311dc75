"""One runner per method: ``run(case)`` returns what our code computes, by the keys of the case."""
