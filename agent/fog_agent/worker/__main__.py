"""`python -m fog_agent.worker --fd N`: the worker process."""

import sys

from fog_agent.worker.threads import main

if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[sys.argv.index("--fd") + 1])))
