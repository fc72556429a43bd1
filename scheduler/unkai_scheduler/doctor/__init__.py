"""What `unkai-scheduler diagnose` looks at. It changes nothing and needs no running scheduler."""
