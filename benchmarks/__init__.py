"""One program a claim. Each prints what it measured as a ratio to a floor or a peer measured in the same run."""
