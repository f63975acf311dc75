"""How much results suffer when photos, names or the vocabulary change: a list of conditions that an evaluation runs.

The seam for ``ovseg eval`` is a list of `Condition`, the clean one first, and one function for the result::

    tests = conditions(corruptions="fog,snow:3", typos="1,2", distractors="100", typographic="3", seed=0)
    for condition in tests:                                   # condition.key, such as "fog-3", names its rows and files
        words = condition.vocabulary(vocabulary)              # what the model is asked; classes keep their ids
        for image_id, pixels, truth in images:
            seen = condition.image(pixels, image_id, vocabulary, np.unique(truth.classes))
            labels = model(seen, words)
            labels[labels >= len(vocabulary)] = -1            # an added name is no class
            evaluator.add(truth.semantic(), labels)
    report = summarise([(condition, numbers) ...])            # clean, every condition, mean and drop of each family

A condition depends on its fields, the seed and the image id alone: not on the order of images, the process, or earlier
draws. It pickles. Ground truth never changes. `image_id` should be the same on every machine, such as a file name.
"""

from ovseg.evaluation.robustness.condition import Condition
from ovseg.evaluation.robustness.corruptions import CORRUPTIONS, Corruption
from ovseg.evaluation.robustness.names import Paraphrase, Typos
from ovseg.evaluation.robustness.openness import Distractors
from ovseg.evaluation.robustness.suite import conditions, summarise
from ovseg.evaluation.robustness.typographic import Typographic
from ovseg.system.registry import register_all

register_all(__name__)

__all__ = [
    "CORRUPTIONS",
    "Condition",
    "Corruption",
    "Distractors",
    "Paraphrase",
    "Typographic",
    "Typos",
    "conditions",
    "summarise",
]
