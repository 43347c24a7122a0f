"""The verbs as they are typed: signatures and help; `verbs` holds what they do. Imports nothing heavy."""
