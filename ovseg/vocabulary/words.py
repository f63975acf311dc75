"""Word lists that stand for "anything else": background words and contrast words. A list never changes its content.

To improve one, add a list under a new version and move `CURRENT_WORDS`; results name the version they were made with.
"""

from __future__ import annotations

# Words for surroundings rather than objects, so that they seldom compete with what a user looks for.
WORD_LISTS: dict[str, tuple[str, ...]] = {
    "words-v1": (
        "background",
        "sky",
        "cloud",
        "wall",
        "floor",
        "ceiling",
        "ground",
        "soil",
        "sand",
        "gravel",
        "rock",
        "grass",
        "bush",
        "tree",
        "forest",
        "hill",
        "mountain",
        "snow",
        "water",
        "river",
        "sea",
        "road",
        "pavement",
        "building",
        "house",
        "bridge",
        "fence",
        "door",
        "window",
        "curtain",
        "carpet",
        "shelf",
        "wood",
        "brick",
        "fabric",
        "shadow",
    ),
}
CURRENT_WORDS = "words-v1"
