"""MESS: data sets of many domains, with words and label rules of its own toolkit (Blumenstiel et al., NeurIPS 2023).

How sure this is. Layouts, label rules and words are those of the code of MESS, for all of them. Counts follow from
lists and sizes for CWFID and (in tiles) Potsdam, are stated beside the files for ATLANTIS and PST900, and else are
those of the papers; those of DRAM, iSAID, FloodNet, PAXRay and WorldFloods could not be confirmed, as their rules say.
Pictures of WorldFloods have 13 bands of 16 bits, which nothing here reads: the tiles that MESS makes of them are taken.
Names of CUB-200 are those of its own list, which MESS writes with hyphens.
"""

from ovseg.system.registry import register_all

register_all(__name__)
