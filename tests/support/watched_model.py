"""A model that is looked at while it works."""


class Watched:
    """A model whose decoder notes the latents it is given."""

    def __init__(self, model):
        self._model, self.latents, self.forwards = model, [], 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def decode(self, latents, state, **options):
        self.latents.append(latents.clone())
        return self._model.decode(latents, state, **options)

    def denoise(self, *inputs, **options):
        self.forwards += 1
        return self._model.denoise(*inputs, **options)
