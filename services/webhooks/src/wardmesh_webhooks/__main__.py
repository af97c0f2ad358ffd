"""`python -m wardmesh_webhooks` runs the service; settings come from the environment."""

from wardmesh.server.runtime import main
from wardmesh_webhooks.app import build
from wardmesh_webhooks.settings import Settings

if __name__ == "__main__":
    main("webhooks", Settings, build)
