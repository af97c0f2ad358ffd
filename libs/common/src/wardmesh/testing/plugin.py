"""The pytest plugin. Importing it starts nothing; a mesh is started by the first test that asks for one."""

from __future__ import annotations
