"""Whether the package works where nothing but its wheel is: builds it, installs it, and uses it as people do."""
