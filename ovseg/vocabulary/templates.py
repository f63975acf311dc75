"""Prompt templates: sentences with one ``{}`` for the name; the embedding of a name is the mean over a set."""

from __future__ import annotations

from collections.abc import Iterable

from ovseg.errors import VocabularyError, unknown_name
from ovseg.vocabulary.names import shown

# Gu et al., "Open-vocabulary Object Detection via Vision and Language Knowledge Distillation" (ViLD), as SAN, FC-CLIP,
# MAFT+ and OVSeg use them. The second to fifth have no full stop: released weights were trained and measured so.
_VILD14 = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
)

# Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), for ImageNet.
_OPENAI80 = tuple(
    """\
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
""".splitlines()
)

# Zhou et al., "Extract Free Dense Labels from CLIP" (MaskCLIP); CLIP Surgery uses the same.
_IN_THE_SCENE = tuple(
    f"{start} {{}} in the scene." for start in ("there is a", "there is the", "this is a", "this is the", "this is one")
)

# The seven of CLIP's own notebook for ImageNet that do best together; Talk2DINO uses them.
_OPENAI7 = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "simple": ("a photo of a {}.",),
    "clipseg": ("a photo of a {}",),  # CLIPSeg, in its validation
    "image_of": ("Image of a {}.",),  # Zero-guidance segmentation
    "cat_seg": ("A photo of a {} in the scene",),  # CAT-Seg
    "vild14": _VILD14,
    "openai7": _OPENAI7,
    "openai80": _OPENAI80,
    "pixelclip8": (  # PixelCLIP
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
        "A photo of a {} in the scene",
    ),
    "maskclip85": (*_OPENAI80, *_IN_THE_SCENE),
}


def resolve_templates(templates: str | Iterable[str]) -> tuple[str, ...]:
    """Return the sentences of a named set, or check a set of the user's own.

    Args:
        templates: A key of `TEMPLATES`, or sentences that each hold ``{}`` exactly once.

    Raises:
        UnknownNameError: No set has this name.
        VocabularyError: No sentence, or one without exactly one ``{}``.
    """
    if isinstance(templates, str):
        return TEMPLATES[check_templates(templates)]
    sentences = tuple(templates)
    if not sentences:
        raise VocabularyError("the list of templates is empty; give at least one, such as 'a photo of a {}.'")
    for sentence in sentences:
        if not isinstance(sentence, str) or sentence.count("{}") != 1:
            raise VocabularyError(f"template {shown(sentence)} must hold {{}} exactly once, as in 'a photo of a {{}}.'")
    return sentences


def check_templates(name: str) -> str:
    """Return the name of a template set.

    Raises:
        UnknownNameError: No set has this name.
    """
    if name not in TEMPLATES:
        raise unknown_name("template set", name, TEMPLATES)
    return name


def fill(template: str, name: str) -> str:
    """Put a name into a template. Braces in the name, or others in the template, are ordinary characters."""
    return template.replace("{}", name)
