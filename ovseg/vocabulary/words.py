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

# What methods count as background on benchmarks, by who made the list and for which set; used by the protocols.
_PUBLISHED = {
    "sclip": (  # VOC21 and COCO-Object of SCLIP and NACLIP, VOC21 of ProxyCLIP, COCO-Object of ITACLIP
        "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, lamp, door, "
        "window, wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence"
    ),
    "proxyclip-coco80": (
        "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, floor, hill, rail"
    ),
    "cliptrase-voc21": (  # "beachhill" is two words that lost their comma, and is kept
        "background, sky, wall, white, tree, wood, grass, road, trail, sea, river, water, box, signboard, mountain, "
        "sands, bed, building, cloud, lamp, door, window, wardrobe, ceiling, shelf, curtain, stair, floor, ground, "
        "beachhill, rail, fence"
    ),
    "cliptrase-coco80": (  # the original adds the 91 stuff names of COCO-Stuff
        "textile, building, furniture, structural, floor, ceiling, sky, ground, water, food, solid, wall, window, "
        "desk, lamp, wardrobe"
    ),
    "itaclip-voc21": (
        "sky, wall, tree, wood, grass, road, mountain, sands, desk, bed, building, lamp, door, window, wardrobe, "
        "ceiling, shelf, curtain, stair, floor, fence, ground, water, railway, helmet, house, bridge, sign, "
        "keyboard, refrigerator, bench, sink, laptop, clock, blanket, branch, bush, cabinet, clouds, cupboard, "
        "pavement, platform, roof, sea"
    ),
    "cliper-voc21": (
        "ground, land, grass, tree, building, wall, sky, lake, water, river, sea, railway, railroad, keyboard, "
        "helmet, cloud, house, mountain, ocean, road, rock, street, valley, bridge, sign"
    ),
    "cliper-coco80": (
        "ground, land, grass, tree, building, wall, sky, lake, water, river, sea, railway, railroad, helmet, cloud, "
        "house, mountain, ocean, road, rock, street, valley, bridge"
    ),
}
WORD_LISTS |= {name: tuple(words.split(", ")) for name, words in _PUBLISHED.items()}
