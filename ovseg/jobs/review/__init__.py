"""The page on which the results of a job are looked through."""
