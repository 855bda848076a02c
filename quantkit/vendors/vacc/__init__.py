"""The VACC vendor's files: vamc YAML dialects, vdsp_params, vamp data."""
