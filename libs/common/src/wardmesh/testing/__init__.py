"""A whole mesh in a fixture, for projects that use wardmesh. Installed with the extra `testing`."""
