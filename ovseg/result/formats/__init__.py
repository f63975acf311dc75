"""Output formats: a file of this folder that holds a `Format` is one, by being there."""

from ovseg.result.formats.base import FORMATS, Format, Place, Record, Written, list_formats
from ovseg.system.registry import register_all

register_all(__name__)

__all__ = ["FORMATS", "Format", "Place", "Record", "Written", "list_formats"]
