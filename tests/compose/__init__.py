"""`make test-compose`: docker-compose.yml as it is, brought up, toured through its doors, and broken while in use.

project     compose and Docker, as far as this needs them
traffic     events and audit events that flow, and what was acknowledged of them
scenes      what is shown
__main__    brings it up, plays the scenes, takes it down, whatever happens
"""
