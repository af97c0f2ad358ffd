"""What the mesh's own services are made of. Installed with the extra `server`; clients never import it."""
