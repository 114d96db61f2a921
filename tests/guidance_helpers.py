"""What the tests of the losses share: a prior whose words have an effect in closed form."""

import torch

from dreamlift.priors.exact.gaussian import GaussianPrior


class ToldPrior(GaussianPrior):
    """N(m, s^2 I) whose mean m is what the text says: guidance then has an effect with a closed form."""

    def __init__(self, std: float) -> None:
        super().__init__(torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.tensor([std], dtype=torch.float64))

    def predict_noise(self, x_t, t, cond, guidance_scale=1.0):
        plain, told = (self.exact(x_t, t, e) for e in (cond.negative_prompt_embeds, cond.prompt_embeds))
        return plain + guidance_scale * (told - plain)

    def exact(self, x_t, t, embeds):
        """eps_hat of the density with the mean that ``embeds (B, L, D)`` say."""
        alpha, sigma = self.schedule(t)
        mean = embeds.mean((1, 2)).view(-1, 1, 1, 1)
        return sigma * (x_t - alpha * mean) / (alpha.square() * self.stds.square() + sigma.square())
