"""The verbs as they are typed: signatures and help; `verbs` holds what they do, and imports torch."""
