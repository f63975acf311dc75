"""Labelling of whole folders, archives and videos, as a job."""
