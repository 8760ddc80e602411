"""Which settings of a search decide its score: PED-ANOVA or fANOVA on the study's storage, intervals over trials."""

from sage_ray.analysis.setting_importance import main

if __name__ == "__main__":
    raise SystemExit(main())
