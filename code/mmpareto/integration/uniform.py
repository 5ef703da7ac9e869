"""The uniform baseline: all losses count the same."""

from mmpareto.integration.joint import PlainSum


class UniformSum(PlainSum):
    """Descend L_m + Σₖ L_uᵏ, the plain sum of the joint loss and every unimodal loss.

    One backward pass over the sum (MMPareto paper, section 3.1).
    """

    source = "Wei & Hu, MMPareto, ICML 2024: its uniform baseline"
