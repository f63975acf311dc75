"""The web page: photographs and words in a browser, for one user or many. It takes the extra ``web``."""
