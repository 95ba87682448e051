local run, n, operations = idle(base)
if run then return {run, n, operations, 0, 0, 0, 0, 0, 0, 0, -1, {}} end
