"""The live part of `make chaos`: fault schedules on a fleet of real processes."""
