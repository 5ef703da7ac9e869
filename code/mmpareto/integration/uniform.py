"""The uniform baseline: all losses count the same."""

from mmpareto.integration.joint import JointLoss


class UniformSum(JointLoss):
    """Descend L_m + Σₖ L_uᵏ: the joint loss and every unimodal loss, summed (MMPareto paper, section 3.1).

    One backward pass over the sum.
    """

    needs_unimodal = True
