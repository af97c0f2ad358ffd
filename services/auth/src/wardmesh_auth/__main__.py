"""`python -m wardmesh_auth` runs auth with its callout and its gateway; settings come from the environment."""

from wardmesh.server.runtime import main
from wardmesh_auth.app import build
from wardmesh_auth.settings import Settings

if __name__ == "__main__":
    main("auth", Settings, build)
