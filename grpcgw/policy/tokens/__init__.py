"""JSON Web Tokens: how they are verified, what is remembered of them, and the policy that demands one."""
