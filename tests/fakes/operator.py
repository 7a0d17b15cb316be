"""An operator's configuration for tests."""

import msgspec

from chrek import config

SETTINGS = msgspec.convert(
    {
        "kind": "OperatorConfig",
        "apiVersion": "chrek.nvidia.com/v1alpha1",
        "release": "ns-chrek",
        "watchNamespaces": ["ns"],
        "initImage": "chrek-init:1",
        "leaseName": "chrek-operator",
        "webhookName": "ns-chrek",
        "webhookServiceName": "chrek-webhook",
        "certificateSecretName": "chrek-webhook-cert",
        "agentServiceAccountName": "chrek-agent",
    },
    config.OperatorConfig,
)
