"""The operator: DynamoCheckpoint and DynamoGraphDeployment controllers, pod admission webhook."""
