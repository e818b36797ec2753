"""The bus over a broker: RabbitMQ, by AMQP 0-9-1."""
