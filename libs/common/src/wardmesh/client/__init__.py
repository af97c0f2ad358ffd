"""The client: what other backends install `wardmesh` for. Its names are exported by `wardmesh` itself.

mesh           connect, and the mesh as an object
methods        contracts become methods
auth secrets bridge webhooks audit    the services
caller         one call, through retries, renewals and reconnections
retry          when and how soon a call is sent again (pure)
credentials    API keys, sessions, tokens
grants         the access token at hand
connection     a link, always
link           one NATS connection
batching       callers share calls
subscription   endless reading by long polls
usage          audit events with fields of their own
"""
