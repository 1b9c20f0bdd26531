"""The group level: gather, judge, train, explain, plan; one module a step."""
