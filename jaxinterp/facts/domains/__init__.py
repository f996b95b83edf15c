"""One module a domain of real facts; each has `RELATIONS` and `candidates()`, and is listed in `facts.worldfacts`."""
