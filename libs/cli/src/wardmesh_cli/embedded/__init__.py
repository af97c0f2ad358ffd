"""A whole mesh on one machine: NATS and PostgreSQL from wheels and the five services, under one data folder."""
