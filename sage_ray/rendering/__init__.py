"""Which image does a scene of particles give, and which particle does each pixel show?"""
