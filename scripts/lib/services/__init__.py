"""Private PostgreSQL, Redis and RabbitMQ for development and tests: the program behind `scripts/services`.

instance.py    where an instance keeps its files, and its ports
processes.py   the process table, signals, and waiting for processes to end
server.py      the common part of all three servers: start, wait until ready, stop, kill, pause, resume
postgres.py, redis.py, rabbitmq.py
               how each server is found, configured, started and asked whether it is ready
debian.py      installation with apt-get
compose.py     the same commands with Docker Compose, where the servers cannot be installed
cli.py         the command line
"""
