"""lm-evaluation-harness's tasks on any adapter: its model class over the understudy client.

`door` asks the server and knows nothing of lm_eval; `model` is the class that lm_eval calls, and
the only module that imports it.
"""
