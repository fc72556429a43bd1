"""What `unkai-agent diagnose` looks at on a host. It changes nothing and needs no running agent."""
