"""What `unkai doctor` is made of: findings, the checks that make them, and how checks are run.

Each role lists its own checks (`unkai_agent.doctor`, `unkai_scheduler.doctor`); what both must
look at in the same way, their certificates, etcd, folders and ports, is here.
"""
