"""What a score alone does not say: calibration, robustness, fairness, bias, toxicity, efficiency.

The aspects of HELM (Liang et al. 2022, arXiv 2211.09110) beside accuracy, each measured on a run's
own answers, or on this machine. Accuracy itself is the tasks' metrics.
"""
