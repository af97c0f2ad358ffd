"""`wardmesh demo`: a tour of real steps on a real mesh, each with its evidence.

tour          how a step is told, timed, and judged
stage         what the chapters share: the mesh, who acts in it, and what was made
wire          a client without the client library, to try what the library never would
tenants broker vault hooks crossing revocation log    the chapters
"""
