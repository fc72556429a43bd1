"""What the agent talks about: specs and observed state. Pure; imports only `unkai_wire`."""
