"""`python -m wardmesh_bridge` runs the bridge; settings come from the environment."""

from wardmesh.server.runtime import main
from wardmesh_bridge.app import build
from wardmesh_bridge.settings import Settings

if __name__ == "__main__":
    main("bridge", Settings, build)
